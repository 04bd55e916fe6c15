//! Packets through the real programs in the real kernel
