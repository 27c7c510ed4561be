"""Where do files live, and what goes when a folder is full?"""
