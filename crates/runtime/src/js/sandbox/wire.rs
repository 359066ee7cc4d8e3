//! What the node and the launcher say to each other: one JSON document a packet, over a pair of sockets of kind
//! `SEQPACKET`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    io::retry_on_intr,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{limits::Limits, walls::Walls};

/// The largest packet: an order with the bootstrap in it. Linux gives a socket 208 KiB of buffer unless told otherwise,
/// of which a packet takes a little more than its length.
const PACKET_BYTES: usize = 160 * 1024;

/// The first packet, from the node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Try the walls and answer with [`Report::Walls`].
    Probe {
        deno: PathBuf,
        libraries: Vec<PathBuf>,
    },
    Start(Box<StartOrder>),
}

/// All that the launcher needs to know to become a sandboxed Deno.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartOrder {
    pub(super) deno: PathBuf,
    pub(super) libraries: Vec<PathBuf>,
    /// What is in `/boot.js`.
    pub(super) boot: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) limits: Limits,
    pub(super) data_bytes: u64,
    pub(super) walls: Walls,
    /// The folder in place of `/run` where there is no mount namespace; it holds the bootstrap too.
    pub(super) run_dir: Option<PathBuf>,
    /// The file that lets the launcher into its memory group.
    pub(super) group: Option<PathBuf>,
}

/// Sent by the node when the outbound socket is in its place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go;

/// What the launcher, and Deno's process until it is Deno, answer. After [`Report::Pid`], the end of the connection
/// means that Deno runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Walls(Walls),
    /// The root is built. With it comes a descriptor of the folder `/run`, where there is a mount namespace.
    Built,
    /// Deno's process, a child of the node.
    Pid(i32),
    Failed(String),
}

pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

pub(super) fn send(socket: impl AsFd, message: &impl Serialize, fd: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET_BYTES {
        return Err(io::Error::other(format!("a message of {} bytes is too long", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // A signal for the process interrupts calls that have a timeout, whatever its handler asks for (signal(7)).
    retry_on_intr(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message with the descriptor that came with it, or `None` at the end of the connection.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map(|received| received.bytes)
    })?;
    if received == 0 {
        return Ok(None);
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(received);
    Ok(Some((serde_json::from_slice(&bytes)?, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_and_with_its_descriptor() {
        let (here, there) = pair().unwrap();
        let boot = "x".repeat(PACKET_BYTES - 100);
        send(&here, &Report::Failed(boot.clone()), Some(&there)).unwrap();
        let (report, fd) = receive::<Report>(&there).unwrap().unwrap();
        assert!(matches!(report, Report::Failed(text) if text == boot));
        assert!(fd.is_some());
        drop(here);
        assert!(receive::<Report>(&there).unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let (here, _there) = pair().unwrap();
        assert!(send(&here, &Report::Failed("x".repeat(PACKET_BYTES)), None).is_err());
    }
}
