"""What runs next, what may a visitor ask, and what is the server doing?"""
