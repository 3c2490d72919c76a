//! Threads on processors of their own.

/// Puts the calling thread onto the `index`-th processor this process may use. Where the system refuses, the thread
/// stays where it is: pinning is a wish, and results do not depend on it.
#[cfg(target_os = "linux")]
pub(crate) fn pin(index: usize) {
    // SAFETY: an all-zero `cpu_set_t` is an empty set; the calls read and write that set only.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return;
        }
        let processors = 8 * size;
        let Some(processor) = (0..processors).filter(|&cpu| libc::CPU_ISSET(cpu, &allowed)).nth(index) else {
            return;
        };
        let mut only: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut only);
        libc::sched_setaffinity(0, size, &raw const only);
    }
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_index: usize) {}
