//! What sled takes for a sync, made one.
//!
//! sled 0.34 writes its log a segment at a time and calls `sync_file_range` after each. That call leaves out the
//! file's size and blocks and the disk's own cache, but sled takes what it covered for stable: it says so in the
//! headers of later segments and writes over earlier ones. After a power cut it believes those headers, misses
//! segments that it was told were there, and throws away the whole store, with what was truly synced long before.
//! A sync behind every flush does not mend that, since a cut may fall between two flushes.
//!
//! The linker takes the name for the one that is defined here, so that sled calls `fdatasync` instead.

use std::ffi::{c_int, c_uint};

#[allow(unsafe_code)]
// SAFETY: it has the signature of the function whose name it takes, and promises more.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(fd: c_int, _from: i64, _bytes: i64, _flags: c_uint) -> c_int {
    // SAFETY: any number may be passed; one that is no open file is answered with EBADF.
    unsafe { libc::fdatasync(fd) }
}

/// Whether sled's calls arrive here: not if a linker did something else than expected.
pub fn is_in_place() -> bool {
    let called = libc::sync_file_range as *const ();
    let here = sync_file_range as *const ();
    std::ptr::eq(called, here)
}
