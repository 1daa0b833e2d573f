"""What may compute in float16."""
