//! nebula-api
