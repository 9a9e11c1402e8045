"""What a step is made of: the loop, the engine, the learning rate, the losses, the guard, evaluation."""
