//! Under which address others reach this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::MeshError;
use crate::{Config, env::Env};

/// Addresses kept for documentation (RFC 5737, RFC 3849): a route to them is a route to the world.
const WORLD_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The IP address that others are told, for a node that is bound to `bound`. When that is every address of
/// the machine: the first `--broadcast-address` that is one, else the one from which packets to the first
/// seed leave, else to the world.
///
/// # Errors
/// No address leads anywhere.
pub(super) async fn reachable(config: &Config, env: &Env, bound: SocketAddr) -> Result<IpAddr, MeshError> {
    if !bound.ip().is_unspecified() {
        return Ok(bound.ip());
    }
    let named = config.broadcast_addresses.iter().find_map(|address| address.parse::<IpAddr>().ok());
    if let Some(ip) = named.filter(|ip| ip.is_ipv4() == bound.is_ipv4()) {
        return Ok(ip);
    }
    for seed in &config.mesh.join {
        let Ok(addresses) = super::seeds::resolve(env, seed).await else { continue };
        let routes = addresses.iter().filter(|seed| seed.is_ipv4() == bound.is_ipv4());
        if let Some(ip) = routes.filter_map(|seed| env.net.route(*seed).ok()).find(|ip| !ip.is_unspecified())
        {
            return Ok(ip);
        }
    }
    let world: IpAddr = if bound.is_ipv4() { WORLD_V4.into() } else { WORLD_V6.into() };
    let route = env.net.route(SocketAddr::new(world, 9));
    route.map_err(|error| MeshError::NoAddress { address: bound, error })
}
