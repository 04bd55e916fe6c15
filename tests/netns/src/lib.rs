//! Agent and CNI binary between network namespaces
