//! Fields of a head or of trailers as they come out of HPACK or QPACK, in one buffer that can be used again.

#[derive(Debug, Default)]
pub(crate) struct Section {
    bytes: Vec<u8>,
    fields: Vec<Place>,
}

/// Where a field's name and value lie. Sections are bounded far below 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    name_end: u32,
    end: u32,
}

impl Section {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// Lets go of what an unusually long section took.
    pub(crate) fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            self.bytes = Vec::new();
        }
        if self.fields.capacity() * size_of::<Place>() > bytes_max {
            self.fields = Vec::new();
        }
    }

    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.placed(start, name_end);
    }

    /// Where the next field is written by whoever says then how long its name is.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// A field was written from `start` on.
    pub(crate) fn placed(&mut self, start: usize, name_end: usize) {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.fields.push(Place {
            start: narrow(start),
            name_end: narrow(name_end),
            end: narrow(self.bytes.len()),
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// All names and values together.
    pub(crate) fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Name and value of a field.
    pub(crate) fn at(&self, index: usize) -> (&[u8], &[u8]) {
        self.split(self.fields[index])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|place| self.split(*place))
    }

    fn split(&self, place: Place) -> (&[u8], &[u8]) {
        let field = &self.bytes[place.start as usize..place.end as usize];
        field.split_at((place.name_end - place.start) as usize)
    }
}

#[cfg(test)]
impl<'a> FromIterator<(&'a str, &'a str)> for Section {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Section {
        let mut section = Section::default();
        for (name, value) in fields {
            section.push(name.as_bytes(), value.as_bytes());
        }
        section
    }
}
