//! nebula-logs
