"""What a user asks for: the transforms, vector calculus, mixed partial derivatives, residuals."""
