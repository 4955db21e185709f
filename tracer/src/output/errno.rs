//! The symbolic names of the errors that a socket can hold, or that a call on one gives.

/// The name of `errno`, or `None` for one that the network code does not set.
pub(crate) const fn name(errno: u16) -> Option<&'static str> {
    macro_rules! names {
        ($($name:ident)+) => {
            match errno as i32 {
                $(libc::$name => Some(stringify!($name)),)+
                _ => None,
            }
        };
    }
    names! {
        EPERM ENOENT EINTR EIO ENXIO EBADF EAGAIN ENOMEM EACCES EFAULT ENFILE EMFILE EBUSY EEXIST ENODEV EINVAL
        EPIPE ENOSYS ELOOP ENODATA ETIME ENONET ENOLINK ECOMM EPROTO EBADMSG EOVERFLOW
        ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT
        EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH
        ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS
        ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EREMOTEIO
        ECANCELED EKEYEXPIRED EKEYREJECTED
    }
}
