"""OpenMOSS: Llama Scope, R1 distill, llamascopium."""
