"""How drawn crowds are made: camera, people, clothes, background."""
