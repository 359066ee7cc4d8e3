//! The versions that `dev` publishes: `0.1.0-dev.1`, `0.1.0-dev.2`, … of an app whose manifest says 0.1.0.

use minnow_model::Version;

/// The `number`th dev version of `base`. What `base` has of a pre-release comes first, so that `1.0.0-rc.1` becomes
/// `1.0.0-rc.1.dev.3`, which sorts after it; build metadata is dropped.
pub fn dev_version(base: &Version, number: u64) -> Version {
    let dev = if base.pre.is_empty() { format!("dev.{number}") } else { format!("{}.dev.{number}", base.pre) };
    let mut version = Version::new(base.major, base.minor, base.patch);
    // Always valid: identifiers of a valid pre-release, a word, and a number without leading zeros.
    version.pre = semver::Prerelease::new(&dev).unwrap_or_default();
    version
}

/// The number of a dev version; `None` for any other version.
pub fn dev_number(version: &Version) -> Option<u64> {
    let (before, number) = version.pre.as_str().rsplit_once('.')?;
    (before == "dev" || before.ends_with(".dev")).then(|| number.parse().ok())?
}

/// The number of the next dev version, given those that are there.
pub fn next_number<'a>(versions: impl IntoIterator<Item = &'a Version>) -> u64 {
    versions.into_iter().filter_map(dev_number).max().map_or(1, |number| number.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn dev_versions_are_numbered_and_read_back() {
        for (base, number, expected) in [
            ("0.0.0", 1, "0.0.0-dev.1"),
            ("0.1.0", 12, "0.1.0-dev.12"),
            ("1.0.0-rc.1", 3, "1.0.0-rc.1.dev.3"),
            ("1.0.0+build.7", 3, "1.0.0-dev.3"),
        ] {
            let dev = dev_version(&version(base), number);
            assert_eq!(dev, version(expected));
            assert_eq!(dev_number(&dev), Some(number));
        }
        for other in ["0.1.0", "0.1.0-dev", "0.1.0-rc.1", "0.1.0-dev.x", "0.1.0-mydev.1"] {
            assert_eq!(dev_number(&version(other)), None, "{other}");
        }
    }

    #[test]
    fn numbers_grow_whatever_the_base_is() {
        let there = [version("0.2.0-dev.4"), version("0.1.0-dev.9"), version("0.1.0")];
        assert_eq!(next_number(&there), 10);
        assert_eq!(next_number([]), 1);
    }
}
