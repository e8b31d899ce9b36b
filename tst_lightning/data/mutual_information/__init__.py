"""How much a token tells about the one ``d`` further on, measured on a prepared corpus."""
