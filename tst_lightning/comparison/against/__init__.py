"""Two results folders beside each other, from their ``report.json``: do losses agree, do effects replicate?"""
