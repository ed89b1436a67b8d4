//! A mapped file that somebody else cuts, or that its device fails to read, faults where it is read: SIGBUS, of which a
//! process dies. Here the page becomes one of zeros instead, and the mapping is flagged. Zeros have no valid checksum, so
//! what lies there is refused; the flag tells why.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most files mapped at a time. As many as the kernel allows a process unless told otherwise (`vm.max_map_count`, 65,530).
pub const MAPPINGS_MAX: usize = 1 << 16;

/// A mapped range, empty unless `len` is positive. The handler reads what any thread may write: atomics only.
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    damaged: AtomicBool,
}

static SLOTS: [Slot; MAPPINGS_MAX] = [const {
    Slot { taken: AtomicBool::new(false), start: AtomicUsize::new(0), len: AtomicUsize::new(0), damaged: AtomicBool::new(false) }
}; MAPPINGS_MAX];
/// Slots from here on were never taken.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Where the search for a free slot begins: a hint.
static FREE: AtomicUsize = AtomicUsize::new(0);
static HANDLER: OnceLock<Result<(), i32>> = OnceLock::new();
/// What handled the signal before; set before ours is installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
/// Bytes of a page.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// A mapping that does not kill, as long as this lives. To be dropped before it is unmapped.
pub struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Fails when [`MAPPINGS_MAX`] are guarded, or when no handler can be installed.
    pub fn new(start: *const u8, len: usize) -> io::Result<Self> {
        HANDLER.get_or_init(install).map_err(io::Error::from_raw_os_error)?;
        let hint = FREE.load(Ordering::Relaxed);
        let free = |i: &usize| {
            let slot = &SLOTS[*i];
            !slot.taken.load(Ordering::Relaxed)
                && slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = (hint..MAPPINGS_MAX).chain(0..hint).find(free).ok_or_else(|| {
            let text = format!("{MAPPINGS_MAX} files are mapped already; use larger segments");
            io::Error::new(io::ErrorKind::QuotaExceeded, text)
        })?;
        FREE.store((index + 1) % MAPPINGS_MAX, Ordering::Relaxed);
        USED.fetch_max(index + 1, Ordering::AcqRel);
        let slot = &SLOTS[index];
        slot.damaged.store(false, Ordering::Relaxed);
        slot.start.store(start as usize, Ordering::Release);
        slot.len.store(len, Ordering::Release);
        Ok(Self { slot })
    }

    /// Whether a page of the mapping could not be read since it is guarded, and is zeros now.
    pub fn is_damaged(&self) -> bool {
        self.slot.damaged.load(Ordering::Relaxed)
    }

    pub fn set_damaged(&self) {
        self.slot.damaged.store(true, Ordering::Relaxed);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.len.store(0, Ordering::Release);
        self.slot.taken.store(false, Ordering::Release);
    }
}

fn install() -> Result<(), i32> {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    // SAFETY: sysconf has no preconditions; the two structs are plain data, filled in below.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        PAGE.store(usize::try_from(page).map_err(|_| libc::EINVAL)?, Ordering::Relaxed);
        let mut previous: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) != 0 {
            return Err(errno());
        }
        let _ = PREVIOUS.set(previous);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_sigbus as *const () as usize;
        // On the alternative stack, which Rust gives its threads. The signal stays blocked meanwhile: a fault in here kills.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut ours.sa_mask);
        if libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut()) != 0 {
            return Err(errno());
        }
    }
    Ok(())
}

/// Async-signal-safe: atomics, `mmap`, `sigaction`, `raise`; no allocation, no lock, `errno` as it was.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo; `errno` is the thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        // Not from another process: that says nothing about an address.
        let is_fault = (*info).si_code > 0;
        if !is_fault || !patch((*info).si_addr() as usize) {
            pass_on(signal, info, context, is_fault);
        }
        *libc::__errno_location() = errno;
    }
}

/// Puts a page of zeros where a guarded mapping faulted.
fn patch(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(MAPPINGS_MAX);
    let holds = |slot: &&Slot| {
        let len = slot.len.load(Ordering::Acquire);
        let offset = address.wrapping_sub(slot.start.load(Ordering::Acquire));
        // Asked twice, lest the length be that of another mapping than the start.
        offset < len && slot.len.load(Ordering::Acquire) == len
    };
    let Some(slot) = SLOTS[..used].iter().find(holds) else { return false };
    let page = PAGE.load(Ordering::Relaxed);
    // Flagged first: whoever sees the zeros can know.
    slot.damaged.store(true, Ordering::SeqCst);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page belongs to a live mapping of ours, read-only before and after; whoever reads it holds its guard.
    let patched = unsafe { libc::mmap((address & !(page - 1)) as *mut c_void, page, libc::PROT_READ, flags, -1, 0) };
    patched != libc::MAP_FAILED
}

/// # Safety
/// To be called by the handler with what it got.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, is_fault: bool) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |p| p.sa_sigaction);
    // SAFETY: the previous handler is called as its flags say it wants to be; sigaction and raise have no preconditions.
    unsafe {
        match handler {
            libc::SIG_IGN if !is_fault => {}
            // Returning repeats the fault, of which the process then dies as if there were no handler.
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &default, std::ptr::null_mut());
                if !is_fault {
                    libc::raise(signal);
                }
            }
            _ if previous.is_some_and(|p| p.sa_flags & libc::SA_SIGINFO != 0) => {
                let call: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
                call(signal, info, context);
            }
            _ => {
                let call: extern "C" fn(c_int) = std::mem::transmute(handler);
                call(signal);
            }
        }
    }
}
