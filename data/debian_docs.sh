#!/bin/sh
# About 50 MB of clean English prose from four of Debian's documentation packages: downloaded and unpacked into
# FOLDER (data/debian_docs), nothing is installed. Needs apt-get and dpkg-deb. Then: mfa-train prepare data=debian_docs
set -eu
folder=${1:-data/debian_docs}
mkdir -p "$folder"
cd "$folder"
apt-get download linux-doc-6.1 anarchism python3.11-doc perl-doc
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
rm -rf ./*.deb usr/share/doc/linux-doc-6.1/Documentation/translations  # of which some are not English
