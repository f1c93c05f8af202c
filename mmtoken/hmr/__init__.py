"""Human meshes of several people in a picture: body models, data, metrics, drawing and the model.

Positions are in metres in the camera's frame as OpenCV has it, unless something else is said: x right, y down, z
forward.
"""
