//! Which versions of an app get live traffic.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{AppName, manifest::Sticky};

/// One version's share of the live traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Share {
    /// The version, in semver form.
    #[schema(value_type = String, example = "0.1.0")]
    pub version: Version,
    /// Percent of the traffic, 1–100. The shares of a deployment add up to 100.
    pub weight: u8,
}

/// The current deployment of an app: one version, or two by weight (a canary).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deployment {
    #[schema(value_type = String, example = "hello")]
    pub app: AppName,
    /// Grows by one with each change; the newest is live.
    pub revision: u64,
    /// When it became live, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What made it: `deploy` or `rollback`.
    pub cause: Cause,
    pub shares: Vec<Share>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    Deploy,
    Rollback,
}

/// Why a deployment was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    #[error("a weight is a percentage from 1 to 100, not {0}")]
    Weight(u8),
    #[error("a canary needs a version that is live already; deploy {0} without a weight first")]
    NothingLive(Version),
    #[error("{0} already has all the traffic")]
    AlreadyLive(Version),
    #[error("there is no earlier deployment to roll back to")]
    NothingBefore,
}

/// The shares after `version` gets `weight` percent of the traffic of a deployment that has `current` shares. The rest
/// stays with the version that has most of the traffic now and is not `version`.
pub fn shares_after(current: &[Share], version: &Version, weight: u8) -> Result<Vec<Share>, DeployError> {
    if !(1..=100).contains(&weight) {
        return Err(DeployError::Weight(weight));
    }
    if weight == 100 {
        return Ok(vec![Share { version: version.clone(), weight }]);
    }
    let stays = current.iter().filter(|share| share.version != *version).max_by_key(|share| share.weight);
    match stays {
        Some(stays) => Ok(vec![
            Share { version: stays.version.clone(), weight: 100 - weight },
            Share { version: version.clone(), weight },
        ]),
        None if current.is_empty() => Err(DeployError::NothingLive(version.clone())),
        None => Err(DeployError::AlreadyLive(version.clone())),
    }
}

/// Which share a request goes to: the index into `weights` for a `draw` from 0 to 99. For a sticky client the draw comes
/// from [`sticky_draw`], otherwise from a random number.
pub fn pick(weights: impl IntoIterator<Item = u8>, draw: u8) -> usize {
    let mut upto = 0u16;
    let mut last = 0;
    for (index, weight) in weights.into_iter().enumerate() {
        upto += u16::from(weight);
        last = index;
        if u16::from(draw) < upto {
            return index;
        }
    }
    last
}

/// The draw, 0–99, of a client that names itself by the cookie or header that the manifest's `sticky` names. The same
/// text always gives the same draw, on every node, so a growing canary only ever moves clients one way (FNV-1a, 64 bit).
pub fn sticky_draw(client: &[u8]) -> u8 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in client {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV's low bits mix poorly on short input; fold the high half in before the modulus.
    ((hash ^ (hash >> 32)) % 100) as u8
}

/// The value by which `sticky` names this client, from its headers.
pub fn sticky_value<'a>(sticky: &Sticky, header: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
    match sticky {
        Sticky::Header(name) => header(name),
        Sticky::Cookie(name) => header("cookie")?.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then(|| value.trim())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(version: &str, weight: u8) -> Share {
        Share { version: version.parse().unwrap(), weight }
    }

    #[test]
    fn shares_always_add_up_to_100() {
        let live = [share("1.0.0", 100)];
        let new = "1.1.0".parse().unwrap();
        assert_eq!(shares_after(&live, &new, 100).unwrap(), [share("1.1.0", 100)]);
        let canary = shares_after(&live, &new, 10).unwrap();
        assert_eq!(canary, [share("1.0.0", 90), share("1.1.0", 10)]);
        assert_eq!(shares_after(&canary, &new, 50).unwrap(), [share("1.0.0", 50), share("1.1.0", 50)]);
        assert_eq!(shares_after(&[], &new, 10), Err(DeployError::NothingLive(new.clone())));
        assert_eq!(shares_after(&[share("1.1.0", 100)], &new, 10), Err(DeployError::AlreadyLive(new.clone())));
        assert_eq!(shares_after(&live, &new, 0), Err(DeployError::Weight(0)));
        assert_eq!(shares_after(&live, &new, 101), Err(DeployError::Weight(101)));
    }

    #[test]
    fn a_draw_falls_into_its_share() {
        for (draw, expected) in [(0, 0), (89, 0), (90, 1), (99, 1)] {
            assert_eq!(pick([90, 10], draw), expected, "{draw}");
        }
        assert_eq!(pick([100], 99), 0);
    }

    #[test]
    fn sticky_draws_are_stable_and_spread() {
        assert_eq!(sticky_draw(b"alice"), sticky_draw(b"alice"));
        let mut counts = [0u32; 100];
        for client in 0..100_000u32 {
            counts[usize::from(sticky_draw(client.to_string().as_bytes()))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_sticky_client_is_named_by_its_cookie_or_header() {
        let headers = |name: &str| match name {
            "cookie" => Some("a=1; session=xyz"),
            "x-user" => Some("bob"),
            _ => None,
        };
        assert_eq!(sticky_value(&Sticky::Cookie("session".into()), headers), Some("xyz"));
        assert_eq!(sticky_value(&Sticky::Cookie("other".into()), headers), None);
        assert_eq!(sticky_value(&Sticky::Header("x-user".into()), headers), Some("bob"));
    }
}
