//! nebula-membership
