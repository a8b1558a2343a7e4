//! nebula-pki
