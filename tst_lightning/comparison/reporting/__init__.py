"""From numbers to sentences, tables, pictures and pages."""
