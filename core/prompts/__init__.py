"""Which token stands where in the text, and what part does it play?"""
