"""What is known of the layers of a family without computing them: a module for each family.

They ask layers that stand in for those of torch.nn that the kit has cases for, and need no
reference.
"""
