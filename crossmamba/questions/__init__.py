"""Questions about actions for MambaVL: made from templates or by a language model, masked, and checked for leaks."""
