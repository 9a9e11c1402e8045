"""The attentions, one file each, named as their choice in configs/attention/.

mha.py mqa.py gqa.py   heads with keys and values of their own, of one head, of groups
mla.py gla.py mlra.py  a cached latent: one, in blocks for groups of heads, in blocks for branches
mfa.py mfa_kr.py       many heads over one wide key head; its value derived from the key
fpba.py                the upper bound that MFA is measured by
gta.py                 a state that is value and half of the key
deepseek_v4.py         one vector that is key and value
tpa.py                 factors of tensor products
"""
