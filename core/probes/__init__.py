"""How is a sentiment read, and how far can that be trusted?"""
