#!/bin/sh
# About 50 MB of clean English prose from four of Debian's documentation packages: downloaded and unpacked into
# FOLDER (data/debian_docs), nothing is installed. Needs apt-get and dpkg-deb of Debian 12; docs/results/nano was made with
# linux-doc-6.1 6.1.192-2, anarchism 15.3-3, python3.11-doc 3.11.2-6+deb12u9, perl-doc 5.36.0-7+deb12u4.
# Then: mfa-train prepare data=debian_docs
set -eu
folder=${1:-data/debian_docs}
mkdir -p "$folder"
cd "$folder"
apt-get download linux-doc-6.1 anarchism python3.11-doc perl-doc
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
rm -rf ./*.deb usr/share/doc/linux-doc-6.1/Documentation/translations  # of which some are not English
