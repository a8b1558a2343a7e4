//! nebula-enrolment
