//! A Parquet file of a few plain columns, written in memory.

use std::sync::Arc;

use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use crate::error::LedgerError;

/// Rows of a group.
const GROUP: usize = 65_536;

/// The values of one column.
#[derive(Debug)]
pub(crate) enum Column {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Bytes(Vec<Vec<u8>>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Int64(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }
}

/// A file with this schema (Parquet's message syntax, all columns required) and these columns.
pub(crate) fn write(schema: &str, columns: &[Column]) -> Result<Vec<u8>, LedgerError> {
    encode(schema, columns).map_err(|error| LedgerError::Unavailable(format!("write Parquet: {error}")))
}

fn encode(schema: &str, columns: &[Column]) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        // The same rows give the same bytes whatever wrote them.
        .set_created_by("depin-ledger".into())
        .build();
    let schema = Arc::new(parse_message_type(schema)?);
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, schema, Arc::new(properties))?;
    let rows = columns.first().map_or(0, Column::len);
    let mut from = 0;
    while from < rows {
        let to = (from + GROUP).min(rows);
        let mut group = file.next_row_group()?;
        for column in columns {
            let Some(mut writer) = group.next_column()? else { break };
            match column {
                Column::Bool(values) => writer.typed::<BoolType>().write_batch(&values[from..to], None, None)?,
                Column::Int32(values) => writer.typed::<Int32Type>().write_batch(&values[from..to], None, None)?,
                Column::Int64(values) => writer.typed::<Int64Type>().write_batch(&values[from..to], None, None)?,
                Column::Bytes(values) => {
                    let values: Vec<ByteArray> = values[from..to].iter().map(|value| value.clone().into()).collect();
                    writer.typed::<ByteArrayType>().write_batch(&values, None, None)?
                }
            };
            writer.close()?;
        }
        group.close()?;
        from = to;
    }
    file.close()?;
    Ok(out)
}
