"""Drawing of meshes."""
