//! nebula-scheduler
