"""What 7.3.4 is suspected to do, where the model does otherwise (gpusvm section 12).

Each is a reading of the source that nobody has reproduced.  Planted, it shows what would come of it.
"""
