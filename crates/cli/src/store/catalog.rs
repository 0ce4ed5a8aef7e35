use serde::{Deserialize, Serialize};

use crate::error::{CommandError, ErrorKind};

/// A cloud image that the program knows where to find.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogImage {
    /// What a user asks for.
    pub name: String,
    /// The processor: `amd64` or `arm64`.
    pub arch: String,
    /// `ID` of the guest's os-release.
    pub os: String,
    /// `VERSION_ID` of the guest's os-release, which a rolling release has none of.
    pub version: Option<String>,
    /// Where the image is.
    pub url: String,
    /// Where its publisher keeps its digest.
    pub checksums: Option<String>,
    /// Which digest that is: `sha256` or `sha512`.
    pub algorithm: Option<String>,
    /// The digest itself, for an address that always means the same bytes.
    pub sha256: Option<String>,
    /// The format: `qcow2` or `raw`.
    pub format: String,
    /// The account that cloud-init gives the keys to.
    pub login: String,
    /// The root file system, where it is known.
    pub root_fs: Option<String>,
}

/// Returns the catalog that is part of the program.
///
/// # Errors
///
/// [`ErrorKind::Unexpected`] when the program was built with a catalog that does not parse.
pub fn catalog() -> Result<Vec<CatalogImage>, CommandError> {
    let parsed: Catalog = toml::from_str(TEXT)
        .map_err(|error| CommandError::new(ErrorKind::Unexpected, "the program's catalog does not parse").with_source(error))?;
    Ok(parsed.image)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    image: Vec<CatalogImage>,
}

const TEXT: &str = include_str!("../../../../images/catalog.toml");

#[cfg(test)]
mod tests {
    #[test]
    fn the_catalog_parses_and_knows_debian_12() {
        let catalog = super::catalog().unwrap();
        assert!(catalog.iter().any(|image| image.name == "debian-12" && image.arch == "amd64" && image.login == "debian"));
    }
}
