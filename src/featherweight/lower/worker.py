"""x"""
def lower_live(*a,**k): raise NotImplementedError
def lower_file(*a,**k): raise NotImplementedError
