//! nebula-mesh
