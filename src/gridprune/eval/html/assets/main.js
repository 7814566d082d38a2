curve();
table();
families();
browser();
