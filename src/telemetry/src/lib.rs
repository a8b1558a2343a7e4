//! nebula-telemetry
