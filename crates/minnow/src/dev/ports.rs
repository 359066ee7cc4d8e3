//! Free addresses for a node that was not told where to listen.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::report::Failure;

/// How many ports are tried. More than twenty dev nodes at once is a mistake that is better told.
const TRIES: u16 = 20;
/// The data and the admin port lie side by side, so the next of each is two further on.
const STEP: u16 = 2;

/// `wanted`, or when its port is taken the next free one.
pub fn free(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    for step in 0..TRIES {
        let Some(port) = wanted.port().checked_add(step * STEP) else { break };
        let address = SocketAddr::new(wanted.ip(), port);
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(anyhow::Error::from(error).context(format!("cannot listen on {address}")));
            }
        }
    }
    Err(Failure::new(format!("no free port from {wanted} on"))
        .help("name one with --http ADDR and --admin ADDR")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = taken.local_addr().unwrap();
        let found = free(wanted).unwrap();
        assert_eq!(found.ip(), wanted.ip());
        assert!(found.port() > wanted.port());
    }
}
