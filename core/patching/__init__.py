"""What does the model say when one activation is another run's? The engine."""
