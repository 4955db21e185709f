use tracer_common::tcp::Flow;

use crate::stream::FailedCall;
use crate::time::Timestamp;

/// A system call that failed, and what is known of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it returned.
    pub at: Timestamp,
    /// Inode of the network namespace; 0: not known.
    pub netns: u32,
    /// Cookie of the network namespace; 0: not known.
    pub netns_cookie: u64,
    /// The socket's addresses as far as known.
    pub flow: Flow,
    /// The call.
    pub failed: FailedCall,
    /// A connect() whose failure a record tells too: its connection had left CLOSE.
    pub has_record: bool,
}
