//! nebula-drivers
