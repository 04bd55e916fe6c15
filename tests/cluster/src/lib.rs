//! Behaviour of a real kind cluster, driven by kubectl
