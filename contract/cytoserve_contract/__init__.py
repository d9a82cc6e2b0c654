"""What crosses a border between rooms, declared once. Standard library only; imports nothing of ours."""
