"""What the papers' blocks are compared with: the ablation rows that are modules of their own."""
