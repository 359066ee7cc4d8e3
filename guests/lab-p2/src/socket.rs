//! Raw sockets: a name lookup or a TCP connection, and how far it got.

use std::net::SocketAddr;

use serde_json::json;
use wasip2::http::types::ResponseOutparam;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use crate::answer;

/// Connects to `address` where that is an IP address and port; looks it up where it is a name.
pub fn try_socket(out: ResponseOutparam, address: &str) {
    let result = match address.parse::<SocketAddr>() {
        Ok(parsed) => connect(parsed),
        Err(_) => resolve(address),
    };
    answer::json(
        out,
        &json!({
            "address": address,
            "connected": result.is_ok(),
            "error": result.err().map(|code| code.name().to_owned()),
        }),
    );
}

fn connect(address: SocketAddr) -> Result<(), ErrorCode> {
    let (family, address) = match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            let address = Ipv4SocketAddress { port: v4.port(), address: (a, b, c, d) };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = Ipv6SocketAddress {
                port: v6.port(),
                flow_info: v6.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: v6.scope_id(),
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    };
    let socket = create_tcp_socket(family)?;
    socket.start_connect(&instance_network(), address)?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn resolve(address: &str) -> Result<(), ErrorCode> {
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
    let addresses = resolve_addresses(&instance_network(), name)?;
    loop {
        match addresses.resolve_next_address() {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => return Err(ErrorCode::NameUnresolvable),
            Err(ErrorCode::WouldBlock) => addresses.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}
