//! `poll`: waits for replies on a few sockets.
#![allow(unsafe_code)]
use std::io;
use std::time::Duration;

use smallvec::SmallVec;

use crate::pool::Waiting;

pub enum Polled {
    /// Some sockets can be read. The tasks of their connections were woken.
    Some,
    /// The time has passed.
    Nothing,
    /// A signal arrived.
    Interrupted,
}

pub fn poll(sockets: &[Waiting], limit: Duration) -> Polled {
    let mut fds: SmallVec<[libc::pollfd; 8]> = sockets
        .iter()
        .map(|waiting| libc::pollfd { fd: waiting.fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the pointer and the length are those of one array, which `poll` changes and which
    // outlives the call.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
    match ready {
        0 => Polled::Nothing,
        1.. => {
            for (socket, fd) in sockets.iter().zip(&fds) {
                if fd.revents != 0 {
                    socket.waker.wake_by_ref();
                }
            }
            Polled::Some
        }
        _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Polled::Interrupted,
        _ => Polled::Nothing,
    }
}
