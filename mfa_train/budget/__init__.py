"""What a config costs, measured on the model itself on the meta device: nothing is allocated, no formula can drift."""
