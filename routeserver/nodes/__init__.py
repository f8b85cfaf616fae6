"""The pub-sub service over the VRFs: who may ask what, and what becomes of it."""
