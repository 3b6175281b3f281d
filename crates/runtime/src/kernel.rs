//! Which kernel this is, for what cannot be found out by trying it.

/// Whether the kernel is of this version or a later one.
pub fn is_at_least(version: (u32, u32)) -> bool {
    release_is_at_least(&rustix::system::uname().release().to_string_lossy(), version)
}

/// Whether a release such as `6.1.0-56-amd64` is this version or a later one; what cannot be read is new.
fn release_is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::release_is_at_least;

    #[test]
    fn releases_are_compared_by_number() {
        let check = |release: &str, expected: bool| assert_eq!(release_is_at_least(release, (6, 5)), expected, "{release}");
        check("6.1.0-56-amd64", false);
        check("5.15.0", false);
        check("6.5.0", true);
        check("6.18-rc1", true);
        check("10.0", true);
        check("", true);
    }
}
