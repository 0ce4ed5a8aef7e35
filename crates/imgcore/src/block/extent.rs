use super::{BlockRead, ByteRange, Error};

/// A run of one allocation state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// The bytes it covers.
    pub range: ByteRange,
    /// Their state.
    pub kind: ExtentKind,
}

/// The allocation state of a run, in NBD's terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExtentKind {
    /// Stored bytes, of any value.
    Data,
    /// Reads as zeros, and the space is set aside.
    Zero,
    /// Reads as zeros and takes no space.
    Hole,
}

impl Extent {
    /// Returns the extent of `kind` over `range`.
    #[must_use]
    pub fn new(range: ByteRange, kind: ExtentKind) -> Self {
        Self { range, kind }
    }

    /// Returns whether the bytes are known to be zeros.
    #[must_use]
    pub fn reads_as_zeros(&self) -> bool {
        self.kind != ExtentKind::Data
    }
}

/// Iterates over the extents of `range`, clipped to it, neighbours of one state joined.
#[must_use]
pub fn extents<D: BlockRead + ?Sized>(disk: &D, range: ByteRange) -> Extents<'_, D> {
    Extents { disk, rest: range, next: None }
}

/// The extents of a range; see [`extents`]. Ends after the first error.
#[derive(Debug)]
pub struct Extents<'a, D: ?Sized> {
    disk: &'a D,
    rest: ByteRange,
    next: Option<Extent>,
}

impl<D: BlockRead + ?Sized> Extents<'_, D> {
    fn fetch(&mut self) -> Option<Result<Extent, Error>> {
        if let Some(extent) = self.next.take() {
            return Some(Ok(extent));
        }
        if self.rest.is_empty() {
            return None;
        }
        let extent = match self.disk.extent_at(self.rest.start()) {
            Ok(extent) => extent,
            Err(error) => {
                self.rest = ByteRange::default();
                return Some(Err(error));
            }
        };
        let range = extent.range.intersection(self.rest)?;
        self.rest = ByteRange::new(range.end(), self.rest.end())?;
        Some(Ok(Extent::new(range, extent.kind)))
    }
}

impl<D: BlockRead + ?Sized> Iterator for Extents<'_, D> {
    type Item = Result<Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut extent = match self.fetch()? {
            Ok(extent) => extent,
            Err(error) => return Some(Err(error)),
        };
        while let Some(following) = self.fetch() {
            match following {
                Ok(other) if other.kind == extent.kind => {
                    extent.range = ByteRange::new(extent.range.start(), other.range.end())?;
                }
                Ok(other) => {
                    self.next = Some(other);
                    break;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(extent))
    }
}
